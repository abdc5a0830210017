"""Imported once by the server that forks the processes of trials: what commands import."""
# ruff: noqa: F401

import faiss
import rasterio
import torch.utils.tensorboard
import torchvision

import swancli.cli
import swancli.commands.demo
import swancli.embed.archive
import swancli.evaluate.report
import swancli.prepare.build
import swancli.query.index
import swancli.scene_image.search
import swancli.train.group
import swancli.train.pretrain
