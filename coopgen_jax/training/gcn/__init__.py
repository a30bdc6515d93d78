"""Generative Cooperative Networks, SelfGAN and discrete GANs."""
