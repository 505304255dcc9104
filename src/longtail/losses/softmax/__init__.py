"""Cross-entropy and the kernel that softmax losses share; nothing here knows of class counts."""
