# The encoder and the reader of codec signals: frames, codec assets and features, no language model.
#   docker build -t onevision-encoder:2601 .
# llava_next/Dockerfile adds training and evaluation to this image. docker/README.md explains both.
# The installed packages and their versions are set by scripts/environment.sh, pyproject.toml and
# constraints.txt only. The CUDA version must be that of the pinned torch.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04

FROM ${CUDA_IMAGE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 CUDA_HOME=/usr/local/cuda VENV=/opt/venv
# The native reader and flash-attn need the compilers. Nothing is compiled when a container starts: the
# DeepSpeed settings of scripts/ use torch's own optimiser.
# The release of the base image fixes the versions of system packages.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        build-essential ca-certificates curl git nasm patch python3 python3-dev python3-venv xz-utils \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'
ENV PATH=/opt/venv/bin:$PATH

# 1: also build flash-attn. Attention needs it no longer: torch brings a kernel for packed rows (varlen).
ARG FLASH=0
ARG MAX_JOBS=8
ENV EXTRAS="" FLASH=${FLASH}
WORKDIR /workspace/OneVision-Encoder
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=cache,target=/var/cache/cv_reader \
    MAX_JOBS=${MAX_JOBS} NATIVE=1 CV_READER_CACHE=/var/cache/cv_reader bash scripts/environment.sh
CMD ["bash"]
