# The student of the quickstart: four blocks and 64 patches of 16 x 16 pixels. Layer
# scale starts at 1, because the recipe's 0.1 is made for 300 epochs.
student = dict(
    type='mmmaskdistill.MaskDistillViT',
    arch=dict(embed_dims=192, num_layers=4, num_heads=3, feedforward_channels=768),
    img_size=128,
    patch_size=16,
    layer_scale_init_value=1.0,
)
quickstart_dir = '{{$MMMASKDISTILL_QUICKSTART:work_dirs/quickstart}}'
