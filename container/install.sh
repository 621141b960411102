#!/bin/sh
# Install normnet, with its weights, into a new virtual environment; run in the root of a clone:
#
#     sh container/install.sh FOLDER cpu|cuda
#
# All images are made by this script, and their size was measured with it.
set -eu
folder=$1
case $2 in
    cpu) constraints="-c constraints.txt -c container/cpu.txt" ;;
    cuda) constraints="-c constraints.txt" ;;
    *) echo "install.sh: '$2' is neither cpu nor cuda" >&2; exit 2 ;;
esac
python3 -m venv --without-pip "$folder"
# shellcheck disable=SC2086 # several words
python3 -m pip --python "$folder" install --no-cache-dir $constraints .
# What only those need who build extensions of torch: its headers and the programs of its tests.
rm -rf "$folder"/lib/python3*/site-packages/torch/include \
    "$folder"/lib/python3*/site-packages/torch/test
