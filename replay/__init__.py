"""The engine that moves real tensors: pages, attention, the model's iterations. Needs torch."""
