"""A local page and a JSON endpoint around a trained model; nothing is trained and nothing is kept."""
