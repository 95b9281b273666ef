"""The Trainer pair: arguments and trainer."""
