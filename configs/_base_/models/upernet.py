# UperNet with a ViT-B/16 as the backbone, for windows of 512 x 512 pixels. UperNet
# uses the outputs of the blocks 4, 6, 8 and 12.
_base_ = 'mmseg::_base_/models/upernet_beit.py'
custom_imports = dict(imports=['mmmaskdistill'])

model = dict(
    type='mmmaskdistill.EncoderDecoder',
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='mmmaskdistill.MaskDistillViT',
        arch='base',
        img_size=(512, 512),
        patch_size=16,
        out_type='featmap',
        out_indices=(3, 5, 7, 11),
        contiguous_maps=False,  # UperNet's convolutions take views, too.
        final_norm=False,
        use_rel_pos_bias=True,
        use_shared_rel_pos_bias=False,
        layer_scale_init_value=0.1,
        init_cfg=dict(type='Pretrained'),
    ),
    decode_head=dict(type='mmmaskdistill.UPerHead'),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
