"""Losses that weigh images or classes: class weights, focal loss, equalization; logits are not shifted."""
