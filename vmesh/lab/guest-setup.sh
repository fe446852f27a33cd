#!/bin/sh
# Runs inside the image once its packages are installed.
set -eu

useradd --create-home --shell /bin/bash --groups sudo mesh
chmod 0440 /etc/sudoers.d/mesh

# Nothing in the image may belong to one VM alone: names, keys and ids come
# with the seed, the machine id from the VM's UUID.
: > /etc/machine-id
: > /etc/hostname
printf '127.0.0.1\tlocalhost\n' > /etc/hosts
: > /etc/resolv.conf
printf '/dev/vda\t/\text4\tnoatime\t0\t1\n' > /etc/fstab
mkdir -p /var/log/journal

systemctl enable lab-seed.service
# Work that a small VM without internet, screen and hot-plugged disks never needs.
# Each costs an emulated CPU a tenth of a second or more, before ssh answers.
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer \
    getty@tty1.service serial-getty@ttyS0.service \
    dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount \
    modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service \
    modprobe@fuse.service modprobe@loop.service kmod-static-nodes.service \
    systemd-binfmt.service systemd-update-utmp-runlevel.service
mkdir -p /etc/systemd/system-generators
for generator in bless-boot cryptsetup debug getty gpt-auto hibernate-resume integritysetup \
    rc-local run system-update sysv veritysetup; do
    ln -s /dev/null "/etc/systemd/system-generators/systemd-$generator-generator"
done
# Whoever reaches ssh may log in: the host asks as soon as there is an answer.
ln -s /dev/null /etc/tmpfiles.d/systemd-nologin.conf
sshd_error=$(mkdir -p /run/sshd && ssh-keygen -A >/dev/null && /usr/sbin/sshd -t 2>&1) || {
    echo "sshd does not accept its configuration: $sshd_error" >&2
    exit 1
}
rm -f /etc/ssh/ssh_host_*

cp /boot/vmlinuz-* /vmlinuz.lab
cp /boot/initrd.img-* /initrd.lab

# systemd would otherwise rebuild its caches on the first boot.
touch /etc/.updated /var/.updated
