"""Images: from a build plan to an ELF named by its digest, and where its parts lie in a chip's memories."""
