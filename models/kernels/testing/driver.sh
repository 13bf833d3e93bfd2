#!/usr/bin/env bash
# driver.sh PROGRAM [ARGUMENT..]: runs a program that was built with `--features cuda` on the driver of driver.c, which computes nothing.
# It shows whether the calls of the CUDA driver are in order where no GPU is. Lines on standard error count them. The exit status is the program's,
# or 3 if a call was not in order.
# Needs a C compiler, and NVRTC as on a GPU (docs/gpus.md). DRIVER_GB sets the memory in GB; with DRIVER_WITHOUT_BIAS, cuBLASLt adds no bias.
#
#   models/kernels/testing/driver.sh target/release/bench speed pretrain --preset vit-ti-32 --batch 32 --precision bf16 --device cuda
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${CC:-cc}" -O1 -w -shared -fPIC -o "$folder/libtest.so.1" "$here/driver.c" -lpthread
for library in libcurand.so.10 libcublas.so.13 libcublasLt.so.13 libcudart.so.13; do ln -s libtest.so.1 "$folder/$library"; done
# NVRTC asks a library with the driver's name for more than this one has.
sed 's/libcuda\.so\.1/libtest.so.1/g' "$1" >"$folder/program"
chmod +x "$folder/program"
shift
LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$folder/program" "$@" 2> >(grep -v 'no version information available' >&2)
