"""Disparity from an exported file, without PyTorch: numpy, opencv-python and onnxruntime are all that this needs.

    python run_stereo.py export -o stereo.onnx                 # once, where PyTorch is
    python docs/run_onnx.py stereo.onnx left.png right.png out  # anywhere

writes out.npy (float32 (H, W), px: x_right = x_left - disparity) and out.png (16 bits, px * 256).
"""

import sys

import cv2
import numpy as np
import onnxruntime


def read(path):
    """An image as (1, 3, H, W) float32 RGB in [0, 1]."""
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        sys.exit(f"error: '{path}' is missing or no image; check the path")
    return np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)[None], np.float32) / 255


def padded(image, step, least):
    """Repeat the border below and to the right until both sides fit: the file takes multiples of ``step`` px."""
    sides = [max(side, minimum) for side, minimum in zip(image.shape[2:], least, strict=True)]
    missing = [side + -side % step - given for side, given in zip(sides, image.shape[2:], strict=True)]
    return np.pad(image, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])), mode="edge")


def main():
    if len(sys.argv) != 5:
        sys.exit("usage: run_onnx.py FILE.onnx LEFT RIGHT OUT")
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    left, right = read(sys.argv[2]), read(sys.argv[3])
    if left.shape != right.shape:
        sys.exit("error: the images differ in size; a rectified pair has one size")
    step, least = int(facts["granularity"]), (int(facts["min_height"]), int(facts["min_width"]))
    pair = {"left": padded(left, step, least), "right": padded(right, step, least)}
    disparity, _occlusion, _confidence = session.run(["disparity", "occlusion", "confidence"], pair)
    disparity = disparity[0, : left.shape[2], : left.shape[3]]
    np.save(f"{sys.argv[4]}.npy", disparity)
    cv2.imwrite(f"{sys.argv[4]}.png", np.clip(np.rint(disparity * 256), 1, 65535).astype(np.uint16))
    print(f"{disparity.shape[1]}x{disparity.shape[0]} px, disparity {disparity.min():.1f} to {disparity.max():.1f} px")


if __name__ == "__main__":
    main()
