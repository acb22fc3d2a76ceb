#!/usr/bin/env bash
# Demonstrate the whole method on real images, without a GPU. The script installs
# everything, makes the data, and pre-trains two students: one with the paper's
# objective, the features of hidden patches, and one with the objective that pays
# most in a short training, the features of all patches (see docs/objectives.md). It
# trains segmentation and classification from scratch and from each student. Then a
# segmentor predicts a photograph that no training has seen. It ends with a table and
# pictures.
#
#   bash tools/quickstart.sh [--full | --tiny] [--seeds N] [--out DIR] [--no-install]
#   bash tools/quickstart.sh --seeds 3
#
# Options:
#   --full      pre-train for six times as many epochs, which is estimated to take two
#               and a half hours on two CPU cores, instead of less than thirty minutes
#   --tiny      run every step at a tiny size, two minutes in all, to see that it
#               works; the resulting numbers mean nothing
#   --seeds N   repeat segmentation and classification with the seeds 0 to N - 1
#               (default: 1)
#   --out DIR   write to the folder DIR instead of work_dirs/quickstart
#   --no-install  use the environment of the interpreter PYTHON as it is, for example
#               on a machine without a network
#
# The environment variable PYTHON names the interpreter that the virtual
# environment .venv is made with (default: python3). The script needs bash 4.4 or
# newer.
#
# Without --out, results are written to work_dirs/quickstart, with --full to
# work_dirs/quickstart_full, with --tiny to work_dirs/quickstart_tiny. A second
# run skips the steps that are finished. Pre-training that was stopped continues
# after its last full epoch.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' tools/quickstart.sh; }

SIZE=default
SEEDS=1
DIR=
INSTALL=yes
while [ $# -gt 0 ]; do
    case $1 in
        --full | --tiny) SIZE=${1#--} ;;
        --seeds) SEEDS=${2:-}; [ $# -eq 1 ] || shift ;;
        --out)
            DIR=${2:-}
            [ -n "$DIR" ] || { echo "error: --out takes a folder" >&2; exit 2; }
            shift ;;
        --no-install) INSTALL=no ;;
        -h | --help) usage; exit ;;
        *) echo "error: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
case $SEEDS in
    '' | 0 | *[!0-9]*)
        echo "error: --seeds takes a positive number, not '$SEEDS'" >&2
        exit 2 ;;
esac

if [ -z "$DIR" ]; then
    DIR=work_dirs/quickstart
    [ $SIZE = default ] || DIR=${DIR}_$SIZE
fi
DATA=("$DIR/data")
PRETRAIN=()
SEGMENT=()
CLASSIFY=()
case $SIZE in
    full) PRETRAIN+=(train_cfg.max_epochs=60) ;;
    tiny)
        DATA+=(--num-pretrain 128 --num-train 16 --num-val 8
            --num-cls-train-per-class 2 --num-cls-val-per-class 1)
        PRETRAIN+=(train_cfg.max_epochs=2
            param_scheduler.0.end=2 param_scheduler.1.begin=2)
        SEGMENT=(train_cfg.max_iters=4
            param_scheduler.0.end=2 param_scheduler.1.begin=2)
        CLASSIFY=(train_cfg.max_epochs=4) ;;
esac
export MMMASKDISTILL_QUICKSTART=$DIR
mkdir -p "$DIR"

if [ $INSTALL = no ]; then
    export PYTHON=${PYTHON:-python3}
else
    VENV=.venv
    wanted="$("${PYTHON:-python3}" --version) \
$(cat setup.py pyproject.toml mmmaskdistill/version.py | cksum)"
    if [ "$(cat $VENV/installed 2> /dev/null)" != "$wanted" ]; then
        echo "Installing into $VENV (only once; several gigabytes with PyTorch)"
        "${PYTHON:-python3}" -m venv --clear $VENV
        $VENV/bin/python -m pip install --upgrade pip
        $VENV/bin/python -m pip install -e '.[lite,demo]'
        echo "$wanted" > $VENV/installed
    fi
    export PYTHON=$VENV/bin/python
fi

# stage NAME TITLE INPUTS COMMAND...
#
# Run COMMAND unless an earlier call has finished it. Its output is written to
# $DIR/NAME.log, and lines that report progress also to the terminal. INPUTS are
# the names of earlier stages whose results COMMAND uses. A command that was
# stopped continues from its last checkpoint, if there is one. It starts from the
# beginning if its options, scripts, configs or INPUTS have changed.
stage() {
    local name=$1 title=$2 inputs=$3 start=$SECONDS before=0
    shift 3
    local wanted input word
    wanted="$*"
    for input in $inputs; do
        wanted+=" $input: $(cksum < "$DIR/$input.started")"
    done
    for word in "$@" configs/quickstart/_base_/*.py; do
        case $word in *.py) wanted+=" $word: $(cksum < "$word")" ;; esac
    done
    if [ "$(cat "$DIR/$name.started" 2> /dev/null)" = "$wanted" ]; then
        if [ -f "$DIR/$name.seconds" ]; then
            echo "== $title: finished earlier, in $(cat "$DIR/$name.seconds") s"
            return
        fi
        before=$(cat "$DIR/$name.stopped" 2> /dev/null || echo 0)
    else
        rm -rf "${DIR:?}/$name" "$DIR/$name".{log,seconds,stopped}
        echo "$wanted" > "$DIR/$name.started"
    fi
    echo "== $title"
    trap 'echo $((before + SECONDS - start)) > "$DIR/$name.stopped"' EXIT
    if ! "$@" 2>&1 | tee -a "$DIR/$name.log" | progress; then
        echo "error: '$title' failed. The last lines of $DIR/$name.log:" >&2
        tail -n 60 "$DIR/$name.log" >&2
        exit 1
    fi
    trap - EXIT
    echo $((before + SECONDS - start)) > "$DIR/$name.seconds"
}

# Copy only those lines of the tools' output that report progress.
progress() {
    local lines='Epoch\(|Iter\(|of [0-9]+ files|tensors written'
    { grep --line-buffered -E "$lines" || true; } |
        sed -u -E 's/^.* - (Epoch|Iter)/   \1/; s/ +base_lr: [^ ]+//
            s/ +data_time: [^ ]+//; s/ +grad_norm: [^ ]+//'
}

train() { tools/dist_train.sh "$1" 1 --resume --cfg-options "${@:2}"; }

stage data "Cutting photographs into mosaics" "" "$PYTHON" \
    tools/dataset_converters/texture_mosaics.py "${DATA[@]}"
stage teacher "Teacher: EfficientNet-Lite0, trained on ImageNet-1k" "" "$PYTHON" \
    tools/model_converters/efficientnet_lite_to_timm.py "$DIR/teacher.pth"
stage pretrain "Pre-training with the paper's objective" "data teacher" \
    train configs/quickstart/pretrain.py work_dir="$DIR/pretrain" "${PRETRAIN[@]}"
stage pretrain_all "Pre-training with the loss at all patches" "data teacher" \
    train configs/quickstart/pretrain_all.py work_dir="$DIR/pretrain_all" \
    "${PRETRAIN[@]}"

# The last checkpoint of the run $1.
last() { echo "$DIR/$1/$(basename "$(cat "$DIR/$1/last_checkpoint")")"; }

for seed in $(seq 0 $((SEEDS - 1))); do
    for start in scratch pretrain pretrain_all; do
        inputs="data"
        options=(randomness.seed="$seed")
        if [ $start != scratch ]; then
            inputs="data $start"
            options+=(model.backbone.init_cfg.type=Pretrained
                model.backbone.init_cfg.checkpoint="$(last $start)")
        fi
        name=segment_${start}_$seed
        stage "$name" "Segmentation, $start, seed $seed" "$inputs" \
            train configs/quickstart/segment.py work_dir="$DIR/$name" \
            "${options[@]}" "${SEGMENT[@]}"
        name=classify_${start}_$seed
        stage "$name" "Classification, $start, seed $seed" "$inputs" \
            train configs/quickstart/classify.py work_dir="$DIR/$name" \
            "${options[@]}" "${CLASSIFY[@]}"
    done
done

for name in pretrain pretrain_all; do
    "$PYTHON" tools/analysis_tools/show_pretraining.py configs/quickstart/$name.py \
        "$(last $name)" "$DIR"/data/ade/images/validation/00000{0,1,2,3}.jpg \
        --out "$DIR/$name.png" > "$DIR/pictures.log" 2>&1 ||
        { cat "$DIR/pictures.log"; exit 1; }
done
# The right-hand picture of a stereo pair. Most of the left-hand one is the class
# "motorcycle" of the training data; the right-hand one is in none of the data.
photograph=$("$PYTHON" -c 'import os, skimage
print(os.path.join(os.path.dirname(skimage.__file__), "data/motorcycle_right.png"))')
echo "== Prediction of a photograph that no training has seen"
"$PYTHON" -W ignore tools/predict.py "$(last segment_pretrain_all_0)" \
    "$photograph" --out "$DIR/photograph" --existing overwrite
"$PYTHON" -W ignore tools/analysis_tools/quickstart_summary.py "$DIR" --seeds "$SEEDS"
