"""The components that ship in the box. They come in by entry point, like anybody's."""
