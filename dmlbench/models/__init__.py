"""The network: a backbone of ours, of timm or of torchvision, with an embedding head."""
