"""What the recipes call: settings in, records out."""
