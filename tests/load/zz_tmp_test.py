import subprocess,sys,time,os,pytest,pathlib,shutil,glob
@pytest.mark.parametrize("phase",["data"])
@pytest.mark.parametrize("engine",["pread"])
@pytest.mark.parametrize("how",["exit"])
def test_h(slow_mount,phase,engine,how):
    sys.path.insert(0,"/tmp/lt")
    from a import write
    write(slow_mount.source/"m0",{f"a{i}":("U8",(1<<20,),os.urandom(1<<20)) for i in range(16)})
    [shutil.copy(slow_mount.source/"m0",slow_mount.source/f"m{i}") for i in (1,2,9)]
    t=time.time()
    p=subprocess.Popen([sys.executable,"/tmp/lt/hang.py",slow_mount.path/"m",slow_mount.control,phase,engine]+([how] if how else []),stdout=subprocess.PIPE,stderr=subprocess.STDOUT)
    def stacks():
        for d in glob.glob(f"/proc/{p.pid}/task/*"):
            print(d.split("/")[-1],open(d+"/stat").read().split()[2], open(d+"/stack").read().split("\n")[:6])
    try: p.wait(5); print("ended by itself",time.time()-t)
    except subprocess.TimeoutExpired:
        stacks()
        slow_mount.release(); t=time.time(); 
        try: p.wait(5); print("after release",time.time()-t)
        except subprocess.TimeoutExpired:
            print("ctl", slow_mount.control.read_text()); stacks(); os.system(f"ls -l {slow_mount.control}; ps aux | grep fuse_delay"); p.kill(); 
            d=[x for x in os.listdir("/proc") if x.isdigit() and b"fuse_delay" in open(f"/proc/{x}/cmdline","rb").read()]
            for x in d:
                for tt in glob.glob(f"/proc/{x}/task/*"): print(x, open(tt+"/wchan").read())
    print(p.stdout.read().decode(), p.returncode)
