"""STTR (Li et al., ICCV 2021, arXiv 2011.02910) and its light version. Start reading at network.py."""
