# attar with PyTorch for CPUs. Build:  docker build -t attar .
# Use:  docker run --rm -v "$PWD":/data attar distill digits --ipc 1
FROM python:3.13-slim

RUN pip install --no-cache-dir uv
COPY pyproject.toml constraints.txt README.md LICENSE /opt/attar/
COPY src /opt/attar/src
RUN uv pip install --system --no-cache --torch-backend cpu -c /opt/attar/constraints.txt /opt/attar

WORKDIR /data
ENTRYPOINT ["attar"]
CMD ["--help"]
