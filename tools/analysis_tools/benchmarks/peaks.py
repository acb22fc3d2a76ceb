"""Peak rates of GPUs, which measured rates are compared with."""

import re

# Floating-point operations per second of dense matrix products in bfloat16 with sums in
# float32, by words of the name that torch.cuda.get_device_name returns. The first entry
# whose words are all in the name counts. All numbers are those of NVIDIA's data sheets
# and architecture white papers, which round them; where they only have the rate with
# structured sparsity, it is halved:
# - H100: "NVIDIA H100 Tensor Core GPU", 1979 (SXM), 1513 (PCIe) and 1671 (NVL)
#   TFLOP/s with sparsity. H200: "NVIDIA H200 Tensor Core GPU", 1979.
# - A100: "NVIDIA A100 Tensor Core GPU". A10, A30, A40: the data sheets of these names.
# - L4, L40S: "NVIDIA L4 Tensor Core GPU" (242 with sparsity), "NVIDIA L40S".
# - GeForce RTX 3090 and 4090: the white papers "NVIDIA Ampere GA102 GPU Architecture"
#   and "NVIDIA Ada GPU Architecture", peak BF16 tensor TFLOP/s with FP32 accumulate.
PEAK_RATES = {
    'H100 PCIe': 756.5e12,
    'H100 NVL': 835.5e12,
    'H100': 989.5e12,
    'H200 NVL': None,  # Slower than an H200; by how much was not confirmed.
    'H200': 989.5e12,
    'A100': 312e12,
    'A10': 125e12,
    'A30': 165e12,
    'A40': 149.7e12,
    'L40S': 362e12,
    'L4': 121e12,
    'GeForce RTX 3090': 71e12,
    'GeForce RTX 4090': 165.2e12,
}
# A name with one of these words belongs to a part of a GPU, or to another model. Those
# of 64 GB are made for single customers. A number and a letter is the size of a virtual
# GPU, as in A40-8Q.
OTHERS = re.compile(r'MIG|Laptop|Ti|D|64GB|\d+[ABCQ]')


def peak_rate(name: str) -> float | None:
    """Find the peak rate of a GPU.

    Args:
        name (str): Name of the GPU, as ``torch.cuda.get_device_name`` returns it.

    Returns:
        float | None: Floating-point operations per second of dense matrix products in
        bfloat16, or None if the GPU is not in the table.
    """
    words = set(name.replace('-', ' ').split())
    if any(map(OTHERS.fullmatch, words)):
        return None
    return next(
        (rate for key, rate in PEAK_RATES.items() if words.issuperset(key.split())),
        None,
    )
