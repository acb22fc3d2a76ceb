_base_ = '_base_/maskdistill.py'

# Two teachers, as AM-RADIO has several, under MaskDistill's mask and recipe. Nobody has
# published this recipe; the equal weights are assumed. DINOv2 has 16 x 16 patches of 14
# pixels, whose features are resized to the student's 14 x 14.
method = dict(
    name='MaskDistill, CLIP and DINOv2',
    source='arXiv 2210.10615, 2312.06709; no published recipe',
)
model = dict(
    teacher=dict(
        _delete_=True,
        type='mmmaskdistill.TeacherList',
        teachers=[
            _base_.model.teacher,
            dict(
                _base_.model.teacher,
                model_name='vit_base_patch14_dinov2.lvd142m',
                resize='bilinear',
            ),
        ],
        normalizers=[_base_.model.normalizer] * 2,
        views=[
            dict(
                mean=_base_.data_preprocessor.second_mean,
                std=_base_.data_preprocessor.second_std,
            ),
            dict(mean=_base_.data_preprocessor.mean, std=_base_.data_preprocessor.std),
        ],
    ),
    normalizer=dict(type='mmmaskdistill.NoNormalizer'),
    head=dict(
        _delete_=True, type='mmmaskdistill.HeadList', heads=[_base_.model.head] * 2
    ),
    loss=dict(
        _delete_=True,
        type='mmmaskdistill.LossList',
        losses=[_base_.model.loss] * 2,
        channels=[768, 768],
        weights=[1.0, 1.0],
    ),
)
