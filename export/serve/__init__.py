"""A server of exported files: the Open Inference Protocol, images over HTTP, batching, metrics and a page."""
