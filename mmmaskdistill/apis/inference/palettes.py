"""Colors for classes that have none."""


def colors_of(number: int) -> list[list[int]]:
    """Choose a color for each class, as data sets like PASCAL VOC have them.

    The bits of the class's number are spread over the colors' bits, so that any two of
    the first classes are far apart. Numbers from 0; the first class is not black.

    Args:
        number (int): Number of classes.

    Returns:
        list[list[int]]: RGB colors, 0 to 255, no two of which are the same for up to
        2**24 - 1 classes.
    """
    colors = []
    for index in range(1, number + 1):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append(color)
    return colors
