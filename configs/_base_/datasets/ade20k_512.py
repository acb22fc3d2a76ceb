_base_ = 'mmseg::_base_/datasets/ade20k.py'

train_dataloader = dict(batch_size=2)

# Multi-scale test as in BEiT v2's code: the short side is 512 times the ratio, but
# never less than the window of 512, so that the first three ratios give the same
# view. mmseg's own tta_pipeline resizes relative to the size of the file instead.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(
                    type='ResizeShortestEdge',
                    scale=max(512, int(512 * ratio)),
                    max_size=2**31,  # no limit: the long side follows
                )
                for ratio in _base_.img_ratios
            ],
            [
                dict(type='RandomFlip', prob=prob, direction='horizontal')
                for prob in (0.0, 1.0)
            ],
            # reduce_zero_label is that of the data set.
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
