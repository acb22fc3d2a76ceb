_base_ = '_base_/maskdistill.py'

method = dict(name='MaskDistill, CLIP', source='arXiv 2210.10615')
