"""What others see of candled: translation, no decisions."""
