"""What a trained model does, in figures and pictures."""
