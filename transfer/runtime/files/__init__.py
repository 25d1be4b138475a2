"""Reading what nobody vouches for; writing whole or not at all."""
