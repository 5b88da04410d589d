"""What crosses between coordinator and hospital; client and server meet here and nowhere else."""
