"""Who does the cells of a long piece of work: this process, several processes of this machine, or a Ray cluster."""
