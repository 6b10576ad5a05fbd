"""The mixture-of-experts model: its sizes, its parameters, how they lie in tiles, and what they compute."""
