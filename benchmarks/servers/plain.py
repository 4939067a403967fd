"""FastAPI as one writes it first: an endpoint that predicts one image, in FastAPI's threads."""

import sys

import fastapi
import uvicorn

from export import OnnxClassifier

classifier, app = OnnxClassifier(), fastapi.FastAPI()


@app.post("/predict")
def predict(file: fastapi.UploadFile):
    row = classifier.predict_proba(file.file.read())[0]
    return {"label": classifier.class_names[row.argmax()], "probability": float(row.max())}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False)
