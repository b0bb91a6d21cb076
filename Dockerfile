# The course and the library in a container.
#   docker build -t nanogpt .                                   CPU
#   docker build -t nanogpt --build-arg TORCH_INDEX=https://pypi.org/simple .    NVIDIA GPUs
#   docker run -p 8888:8888 -v nanogpt:/work nanogpt        JupyterLab with the chapters; add --gpus all for GPUs
#   docker run -v nanogpt:/work nanogpt nanogpt demo        any command
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/nanogpt
COPY settings.ini setup.py pyproject.toml README.md LICENSE constraints.txt ./
COPY nanogpt nanogpt
COPY nbs nbs
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt ".[hf,course,serve]" \
 && useradd --create-home learner && install -d -o learner /work
USER learner
WORKDIR /work
EXPOSE 8888
CMD ["sh", "-c", "nanogpt course . --no-lab && exec jupyter lab --ip 0.0.0.0 --no-browser"]
