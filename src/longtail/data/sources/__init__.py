"""Where images and labels come from: folders, tables, lists, CIFAR, digits; no file is decoded here."""
