"""What the networks cost and why they are built so, counted and measured on the models themselves."""
