"""Where pairs come from: pictures, stereo pictures, videos, cameras; behind one iterator of frames."""
