"""Commands on programs and signatures."""
