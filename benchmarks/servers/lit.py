"""LitServe with its own batching, of the same size and delay."""

import sys

import litserve
import numpy as np

from export import OnnxClassifier


class Api(litserve.LitAPI):
    def setup(self, device):
        self.classifier = OnnxClassifier()

    def decode_request(self, request):
        return self.classifier._fitted(request["file"].file.read())

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, images):
        return self.classifier.predict_proba(images)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"label": self.classifier.class_names[output.argmax()], "probability": float(output.max())}


if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=64, batch_timeout=0.005), accelerator="cpu", timeout=120)
    server.run(port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error")
