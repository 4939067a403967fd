"""What a server counts, for Prometheus; each server has a registry of its own."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256, 512, 1024)
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


class ServeMetrics:
    """Counters, histograms and gauges of one server; every name starts with `keras_cifar_`."""

    def __init__(self):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        model = {"labelnames": ["model"], "registry": registry}

        def named(kind, name, text, **options):
            return kind(f"keras_cifar_{name}", text, **{**model, **options})

        self.requests = named(Counter, "requests", "Requests answered.", labelnames=["route", "status"])
        self.seconds = named(Histogram, "request_seconds", "From the first byte of a request's body to its answer.",
                             labelnames=["route"], buckets=_SECONDS)  # fmt: skip
        self.images = named(Counter, "images", "Images predicted.")
        self.unsure = named(Counter, "unsure_images", "Images below the file's threshold, answered as unsure.")
        self.batches = named(Histogram, "batch_images", "Images of each call of the runtime.", buckets=_IMAGES)
        self.running = named(Histogram, "batch_seconds", "Seconds of each call of the runtime.", buckets=_SECONDS)
        self.waiting = named(Gauge, "queue_images", "Images received that have no answer yet.")
        self.loads = named(Counter, "model_loads", "Times a file was loaded, the first included.")
        self.failures = named(Counter, "model_load_failures", "Changed files that could not be loaded.")
        self.broken = named(Gauge, "model_file_broken", "1 while the file on the disk cannot be loaded; the model "
                            "loaded before answers.")  # fmt: skip

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)
