from .mask_distill_vit import MaskDistillViT

__all__ = ['MaskDistillViT']
