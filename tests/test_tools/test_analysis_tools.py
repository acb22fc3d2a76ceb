"""tools/analysis_tools/show_pretraining.py from the command line."""
import pytest

TOOL = 'analysis_tools/show_pretraining.py'


def test_what_cannot_work_ends_with_one_line(tool, segmentor, place):
    image = 'images/00.jpg'
    for message, args in [
        ("'no.py' not found", ['no.py', segmentor[0], image]),
        ("'no.pth' not found", ['pretrain.py', 'no.pth', image]),
        ("'no.jpg' not found", ['pretrain.py', segmentor[0], image, 'no.jpg']),
        ('is a EncoderDecoder: ', ['segment.py', segmentor[0], image]),
        ('another architecture', ['pretrain.py', segmentor[0], image]),
    ]:
        with pytest.raises(SystemExit) as error:
            tool(TOOL, *args)
        text = str(error.value)
        assert message in text and text.startswith('error: ')
        assert '\n' not in text
