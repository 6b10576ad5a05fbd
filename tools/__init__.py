"""Programs for whoever changes nocknode; a running node needs none of them."""
