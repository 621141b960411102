"""A trainer for nnU-Net's ``nnUNet_extTrainer``; nnU-Net imports it in its own environment."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_2iterations(nnUNetTrainer):  # noqa: N801 - nnU-Net finds it by this name
    """One epoch of two iterations."""

    # nnU-Net reads these names from the signature
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 1
        self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1
