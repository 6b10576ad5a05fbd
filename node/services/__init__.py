"""What a running node does around its engine: each module one duty, each a shell without decisions of its own."""
