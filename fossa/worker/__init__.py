"""What runs inside a model process: the only part of Fossa that imports ayeaye."""
