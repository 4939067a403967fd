"""The report as one HTML page that fetches nothing: see `keras_cifar.page.write_page`."""
