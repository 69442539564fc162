"""Words of other programs for the fields of a recipe: timm's, torchvision's, Lightning's, transformers' and the field's own.

A table of sentences, each with the words that it answers; to add a word, add it to its line. Words are in lower case, with
underscores. Places begin with a section, ``--`` marks an option of ``jpegcurr train``, and a test checks that they exist.
"""

from collections.abc import Mapping

ANYWHERE: Mapping[str, str] = {
    # the network
    "the network is model.name": "model architecture arch network backbone net model_name model_name_or_path resnet",
    "stochastic depth is model.drop_path": "drop_path_rate stochastic_depth stochastic_depth_prob drop_connect dpr",
    "the weights to start from are model.checkpoint, or timm's own with model.pretrained": (
        "initial_checkpoint weights finetune init_from start_from load_from pretrained_path pretrained_weights"
        " weights_path ckpt_path"
    ),
    "timm's published weights are chosen by model.pretrained": "use_pretrained imagenet_pretrained pretrain",
    "the factor on the classifier's initial weights is model.head_init_scale": "head_init head_init_value",
    "the epochs that train the classifier alone are model.freeze_until": (
        "freeze freeze_backbone freeze_epochs frozen_stages freeze_encoder unfreeze_at_epoch linear_probe train_head_only"
    ),
    "the initial layer scale is model.layer_scale": "layer_scale_init_value ls_init_value init_values layer_scale_init",
    "the number of classes is that of the data sets, and no field": "num_classes nb_classes n_classes num_labels classes",
    # data
    "data sets are named in data, with their files: data.NAME.train and data.NAME.val": (
        "dataset datasets data_dir data_path data_set train_data train_dir train_dataset root data_root dataset_name imagenet "
        "train_split train_file datamodule train_path"
    ),
    "validation data is data.NAME.val, and evaluate names the sets that are measured": (
        "val_data val_dir val_dataset valid_dir eval_dataset test_dataset val_split val_path validation"
        " eval val test eval_data val_set val_sets validation_set"
    ),
    "the JPEG quality of a data set is data.NAME.quality, which data a phase trains on is curriculum.N.data": (
        "jpeg_quality jpeg_qualities quality qualities q"
    ),
    # epochs and phases
    "the number of epochs is curriculum.N.until_epoch of the last phase": (
        "epochs epoch num_epochs num_train_epochs max_epochs n_epochs nb_epochs total_epochs train_epochs num_epoch max_epoch"
    ),
    "phases are the list curriculum": "phases phase stages stage swap swap_epoch curricula progressive",
    "a run's length is in epochs, curriculum.N.until_epoch of the last phase": (
        "max_steps steps num_steps iterations max_iters total_steps max_iter"
    ),
    # images
    "the side of the images is image.size": (
        "img_size image_size input_size train_crop_size val_crop_size crop_size resolution res imgsz crop train_res val_res "
        "size train_size img_resolution"
    ),
    "the filter of the resize is image.interpolation": "train_interpolation interp resample resize_filter val_interpolation",
    "the padding of random crops is image.padding": "random_crop pad crop_padding pad_size cifar_crop",
    "the area of random crops is image.scale": "random_resized_crop rrc crop_scale rrc_scale min_crop train_scale",
    "the aspect ratio of random crops is image.ratio": "aspect_ratio crop_ratio rrc_ratio",
    "the probability of a mirror image is image.hflip": (
        "flip horizontal_flip random_flip fliplr hflip_prob random_horizontal_flip p_hflip"
    ),
    "the share of the image that validation crops is image.val_crop": "crop_pct crop_percent eval_crop center_crop",
    "what validation resizes is image.val_resize": "val_resize_size resize_mode crop_mode resize",
    "the normalisation is image.mean and image.std": "normalize normalization normalise normalisation image_mean image_std",
    "images are mirrored left to right only, by image.hflip": "vflip vertical_flip flipud",
    # augmentation
    "the policy of augmentation is augment.policy": (
        "aa auto_augment autoaugment randaugment rand_augment ra trivial_augment trivialaugment augmentation augmentations aug "
        "ra_magnitude ra_num_ops magnitude"
    ),
    "colour jitter is augment.color_jitter": "colour_jitter jitter color_jitter_prob",
    "the probability of random erasing is augment.erase": "reprob random_erase random_erasing erasing re_prob cutout",
    "what random erasing fills in is augment.erase_fill": "remode re_mode erase_mode",
    "the alpha of mixup is mix.mixup": "mixup_alpha mix_up",
    "the alpha of CutMix is mix.cutmix": "cutmix_alpha cut_mix",
    "the probability of mixing is mix.prob": "mixup_prob mix_prob cutmix_prob",
    "the probability of CutMix instead of mixup is mix.switch_prob": "mixup_switch_prob",
    "repeated augmentation is batch.repeats": "aug_repeats ra_reps ra_sampler repeated_aug repeated_augmentation num_repeats",
    # batches
    "the images of an optimiser step are batch.size, over all devices": (
        "batch_size bs batchsize train_batch_size global_batch_size total_batch_size effective_batch_size mini_batch minibatch"
    ),
    "the images of a forward pass on one device are batch.per_device; gradients are accumulated up to batch.size": (
        "per_device_train_batch_size per_gpu_batch_size micro_batch microbatch micro_batch_size device_batch_size "
        "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps grad_accum accum_iter update_freq accumulation "
        "accum_steps validation_batch_size per_device_eval_batch_size eval_batch_size val_batch_size"
    ),
    "samples are drawn by class with batch.balance": (
        "weighted_sampler weightedrandomsampler balanced_sampler class_balanced oversample oversampling balanced_batch "
        "balance_classes"
    ),
    "weights of classes in the loss are optim.class_weights": "class_weight pos_weight loss_weights weight_per_class",
    "the order of the images is batch.order": "shuffle sampler quasi_random random_order",
    # the schedule
    "the learning rate is schedule.lr": "lr learning_rate base_lr blr init_lr lr0 peak_lr max_lr lr_base eta lr_peak",
    "the lowest learning rate is schedule.min_lr": "lr_min eta_min end_lr final_lr lrf min_learning_rate",
    "the warm-up is schedule.warmup_epochs, in epochs": (
        "warmup warmup_steps warmup_ratio lr_warmup_epochs warm_up num_warmup_steps warmup_iters warmup_length"
    ),
    "the warm-up starts at schedule.start_factor times the rate": "warmup_lr lr_warmup_decay warmup_factor warmup_start_lr",
    "the learning rate follows a cosine, or steps with schedule.decay": (
        "sched scheduler lr_scheduler lr_scheduler_type lr_schedule lr_policy scheduler_type cosine cosine_annealing annealing"
    ),
    "steps of the learning rate are schedule.decay.every and schedule.decay.factor": (
        "lr_step_size step_size lr_gamma gamma decay_rate decay_epochs decay_milestones milestones lr_decay"
    ),
    "where the cosine ends is schedule.horizon": "t_max restarts lr_cycle_limit warm_restarts t_0 cycle_limit t_initial",
    # the optimiser
    "the optimiser is optim.name": "opt optimizer optimiser optimizer_name optimizer_type adamw adam sgd lamb nesterov",
    "weight decay is optim.weight_decay": "weight_decay wd decay l2 weightdecay",
    "decay of biases and normalisation weights is optim.decay_all": (
        "norm_weight_decay bias_weight_decay filter_bias_and_bn no_weight_decay"
    ),
    "momentum is optim.momentum": "momentum sgd_momentum",
    "the betas of AdamW are optim.betas": "opt_betas adam_beta1 adam_beta2 beta1 beta2 beta adam_betas",
    "epsilon is optim.eps": "opt_eps adam_epsilon epsilon adam_eps",
    "clipping of gradients is optim.clip_grad, a norm": (
        "gradient_clip_val max_grad_norm clip_grad_norm grad_clip gradient_clip clip max_norm clip_norm"
    ),
    "layer-wise decay is optim.layer_decay": "layerwise_lr_decay llrd layer_lr_decay layer_wise_decay",
    "label smoothing is optim.label_smoothing": "smoothing label_smoothing_factor labelsmoothing ls",
    "the loss is optim.loss": "criterion loss_fn loss_function bce_loss bce loss objective",
    "the threshold of binary cross-entropy is optim.bce_threshold": "bce_target_thresh bce_target_threshold",
    # the average of the weights
    "the average of the weights is ema, with ema.half_life in epochs or ema.decay": (
        "model_ema model_ema_decay ema_decay use_ema model_ema_steps weight_averaging swa averaging model_ema_warmup"
    ),
    # loading
    "threads that load images are loader.workers": (
        "workers num_workers dataloader_num_workers n_workers jobs threads num_threads data_workers"
    ),
    "the loader is loader.kind": "dataloader data_loader ffcv use_ffcv prefetcher",
    "caching of files is loader.os_cache": "cache in_memory cache_dataset os_cache",
    # files, trackers, and the seed
    "trackers are tracking, a list of tensorboard and wandb, or --track": (
        "logger loggers report_to log_wandb wandb tensorboard tb use_wandb tracker track log_with trackers wandb_project"
    ),
    "the last checkpoints that are kept are save.last": (
        "checkpoint_hist save_total_limit save_top_k keep_checkpoints max_checkpoints checkpoints"
    ),
    "the column that decides which epoch is best is save.best": (
        "eval_metric metric_for_best_model load_best_model_at_end monitor best_metric"
    ),
    "the epochs between two validations are evaluate_every, the data sets those that evaluate names": (
        "check_val_every_n_epoch eval_strategy evaluation_strategy eval_steps val_interval val_check_interval eval_interval"
    ),
    "the seed is seed": "random_seed manual_seed seed_everything rng_seed data_seed random_state",
    # options of the command
    "the device is an option, --device": "device accelerator gpu gpus cuda devices use_gpu",
    "the precision is an option, --precision": "precision amp fp16 bf16 amp_dtype mixed_precision use_amp half dtype tf32",
    "the folder of a run is an option, --out": "output output_dir out out_dir experiment run_name default_root_dir "
    "save_dir logdir work_dir",
    "a run is resumed by an option, --resume": "resume resume_from resume_from_checkpoint auto_resume start_epoch",
    "compiling is an option, --compile": "compile torch_compile torchcompile torchscript",
    "checkpoints within epochs are an option, --save-every": (
        "save_every save_steps save_strategy recovery_interval save_freq checkpoint_interval save_ckpt_freq"
    ),
}

# In a phase, curriculum.N, where these words have a nearer place.
IN_PHASE: Mapping[str, str] = {
    "a phase ends before curriculum.N.until_epoch": "epochs epoch num_epochs until end end_epoch length duration max_epochs",
    "the learning rate of a phase is curriculum.N.lr": "learning_rate base_lr max_lr peak_lr schedule",
    "the images of an optimiser step are curriculum.N.batch": "batch_size bs batchsize",
    "the side of the crops is curriculum.N.size": "img_size image_size input_size resolution res crop_size image",
    "the data of a phase is curriculum.N.data, the name of a data set": "dataset datasets train data_set name set mixture mix",
    "the quality is that of a data set, data.NAME.quality, which the phase names in curriculum.N.data": (
        "quality jpeg_quality qualities q"
    ),
    "the augmentation of a phase is curriculum.N.augment": "augmentation aug aa auto_augment policy",
}

# In a data set, data.NAME.
IN_DATA: Mapping[str, str] = {
    "the file with the training images is data.NAME.train": (
        "path file beton train_path train_file train_data dir folder root train_dir train_dataset"
    ),
    "the file with the validation images is data.NAME.val": (
        "validation valid test eval val_path val_file val_data val_dir val_dataset dev"
    ),
    "the JPEG quality is data.NAME.quality": "jpeg_quality qualities q jpeg",
}

# The places that are probably meant where a whole section is given one value, as in --set batch=64.
OF_SECTION: Mapping[str, str] = {
    "model": "the network is model.name",
    "data": "data sets have names, and files: data.NAME.train",
    "curriculum": "each phase has its data and until_epoch, such as curriculum.0.until_epoch",
    "evaluate": "it names data sets, such as [clean]",
    "image": "the side of the images is image.size",
    "augment": "the policy of augmentation is augment.policy",
    "mix": "mixup is mix.mixup, and CutMix mix.cutmix",
    "batch": "the images of an optimiser step are batch.size",
    "schedule": "the learning rate is schedule.lr",
    "optim": "the optimiser is optim.name",
    "targets": "what a class stands for is targets.map",
    "ema": "the average of the weights is set by ema.half_life or ema.decay, and there is none with ema=null",
    "loader": "the loader is loader.kind",
    "save": "the last checkpoints that are kept are save.last",
}
