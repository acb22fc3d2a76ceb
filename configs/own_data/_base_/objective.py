# What the student predicts, for all configs of own_data. In a run that is much shorter
# than the recipe's 300 epochs, a student that sees the whole image and predicts the
# teacher's features of all patches learns more than one that predicts hidden patches:
# see docs/objectives.md.
objective = dict(backbone=dict(type='mmmaskdistill.AllTokensViT'), predict='all')

# The masks, by the number of rows and columns of the patch grid
mask_8 = dict(type='mmmaskdistill.NoMaskGenerator', input_size=(8, 8))
mask_14 = dict(type='mmmaskdistill.NoMaskGenerator', input_size=(14, 14))
mask_16 = dict(type='mmmaskdistill.NoMaskGenerator', input_size=(16, 16))
