"""The sidecar: observes, decides and applies, again and again."""
