"""The corridor: from any form of image-text pairs to checked batches, and their gradients."""
