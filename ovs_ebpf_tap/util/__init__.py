"""What all packages use, and knows nothing of mirrors."""
